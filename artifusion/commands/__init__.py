"""Commands that fill a module of their own, and what their options take. Heavy imports happen inside them."""
