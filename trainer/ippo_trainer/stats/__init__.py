"""Statistics with conversations as the unit: intervals, scores of predicted probabilities, calibration. numpy only."""
