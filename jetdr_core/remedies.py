"""Remedies that more than one error names, in the words of both faces: the command line and Python."""

from __future__ import annotations

__all__ = ["KEEP_GOING", "NEW_LOG", "VERIFY"]

NEW_LOG = "take the domain over with a new log ('jetdr drva CONFIG --take-over DOMAIN', or take_over() in Python)"
KEEP_GOING = "keep going without what is damaged (--keep-going, or keep_going=True in Python)"
VERIFY = "'jetdr verify URL' shows what is damaged, and which recovery points survive"
