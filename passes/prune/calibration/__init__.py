"""What calibration data say of the inputs of layers: moments, gathered in bounded memory."""
