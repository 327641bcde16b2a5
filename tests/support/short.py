from program import ROOT, SETTINGS, STEPS, VIT, run, train  # noqa: F401
