"""What several avatar methods share."""
