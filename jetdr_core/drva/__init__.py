"""The DRVA: the appliance process that keeps protected domains open, and answers for them.

A DRVA is told things by a configuration file (config), a control socket (client) and signals (daemon), and answers with
status, metrics and logs. Nothing is imported here, so that a program that only asks a DRVA loads nothing that runs one.
"""
