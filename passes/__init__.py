"""Graph passes, one file each, grouped by purpose."""
