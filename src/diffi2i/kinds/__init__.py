"""What a prediction is: an image, labels or depth, a file each."""
