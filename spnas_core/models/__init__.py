"""The detector and the classifier, in MindSpore; static shapes, one compiled graph per architecture."""
