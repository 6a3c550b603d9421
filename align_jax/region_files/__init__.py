"""Regions of images: reading those that other programs stored, finding them in pictures, writing them down."""
