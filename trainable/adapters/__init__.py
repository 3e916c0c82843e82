"""How a low-rank adapter on a quantized weight starts."""
