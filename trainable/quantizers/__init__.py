"""Weight quantizers: one plug-in per family, trained with straight-through gradients, exported
as packed codes."""
