"""Post-training quantization as passes: each makes of a float network one that loses less when it is quantized."""
