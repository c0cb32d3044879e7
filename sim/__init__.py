"""The four ways to run a build (reference, program, model, rtl), and what they are made of."""
