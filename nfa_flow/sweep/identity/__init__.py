"""Descriptions of everything that decides the results of a sweep: functions, settings, libraries; and differences."""
