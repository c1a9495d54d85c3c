"""Networks from timm, torchvision and mmsegmentation, each split into a traceable dense part and a float codec."""
