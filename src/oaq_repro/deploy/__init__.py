"""From the trained network to integers: lowering, the engine checked against the simulation, what the record says."""
