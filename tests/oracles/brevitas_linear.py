"""A linear layer of brevitas with what rounds its weights: the oracle of OPTQ and AXE."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def rounded_by_brevitas(bit_width: int, mode: Any, **fields: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [6, 24] in steps of their scales, the input codes [256, 24] seen, and the codes that brevitas chose.

    mode: gptq_mode or a2gptq_mode, which takes `fields` as well.
    """
    from brevitas import nn
    from brevitas.inject.enum import ScalingImplType
    from brevitas.quant import Int8WeightPerChannelFloat, Uint8ActPerTensorFloat

    weight = type(
        "Weight",
        (Int8WeightPerChannelFloat,),
        {"scaling_impl_type": ScalingImplType.PARAMETER_FROM_STATS, "bit_width": bit_width},
    )
    torch.manual_seed(0)
    linear = nn.QuantLinear(24, 6, bias=True, weight_quant=weight)
    act = nn.QuantIdentity(act_quant=Uint8ActPerTensorFloat, return_quant_tensor=True)
    network = torch.nn.Sequential(act, linear)
    x = torch.rand(256, 24) @ torch.rand(24, 24)
    network.train()(x)
    network.eval()
    steps = linear.weight.detach().clone() / linear.quant_weight().scale.detach()
    seen = act(x).int().float()
    rounding: AbstractContextManager[Any] = mode(
        network, use_quant_activations=True, create_weight_orig=False, **fields
    )
    with torch.no_grad(), rounding as at_work:
        at_work.model(x)
        at_work.update()
    return steps, seen, linear.quant_weight().int().double()
