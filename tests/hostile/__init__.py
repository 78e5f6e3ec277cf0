"""Values, chosen to do harm, that compiled models are given at run time."""
