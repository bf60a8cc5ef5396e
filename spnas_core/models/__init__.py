"""Detector and classifier in MindSpore: static shapes, one compiled graph per architecture."""
