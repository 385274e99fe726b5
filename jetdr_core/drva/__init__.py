"""The DRVA: the appliance process that keeps protected domains open, and answers for them.

Its face: a configuration file (config), a control socket (client), metrics, logs, signals (daemon). Nothing is imported
here: who only asks a DRVA does not load what runs one.
"""
