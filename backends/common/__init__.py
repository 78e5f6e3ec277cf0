"""What every backend shares in code: operator lowering, epilogues, packing, generic schedules."""
