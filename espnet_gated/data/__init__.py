"""ESPnet data directories: writing, reading, checking and filtering them."""
