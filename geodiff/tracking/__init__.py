"""From pixels to head parameters: landmarks, matte, the fit of the head model, the hair."""
