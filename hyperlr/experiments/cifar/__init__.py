"""`hyperlr cifar10` and `cifar100`: Section 6 of the paper, deep networks on colour images."""
