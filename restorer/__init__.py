"""Processes out of images: everything that brings a checkpoint back to life."""
