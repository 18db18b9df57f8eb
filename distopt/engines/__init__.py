"""Where a run is computed. An engine moves rows and never does arithmetic."""
