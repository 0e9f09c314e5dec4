"""What a person asks of images: names for addresses, matches, differences, histories. It touches no live process."""
