"""Guides made of a function, for tests."""

from trainable.diffusion.guide import LatentGuide, TokenGuide


class Latents(LatentGuide):
    def __init__(self, function):
        self.function = function

    def __call__(self, x, t, mean, sigma, predict, step):
        return self.function(x, t, mean, sigma, predict, step)


class Tokens(TokenGuide):
    def __init__(self, function):
        self.function = function

    def __call__(self, log_probs, rows):
        return self.function(log_probs, rows)
