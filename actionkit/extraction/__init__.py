"""What is made of a data set once: stores of frames, flow and features, and smaller videos."""
