"""Every element-wise operator behind every other one in one kernel."""
