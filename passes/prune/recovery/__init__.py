"""What gives accuracy back without training: least squares on calibration data."""
