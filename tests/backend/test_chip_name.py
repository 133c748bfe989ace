import pytest

from parity.backend.chip_name import short_name


@pytest.mark.parametrize(
    "name, short",
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100"),
        ("NVIDIA H20", "h20"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-PCIE-40GB MIG 1g.5gb", "a100"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA L40S", "l40s"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("Tesla T4", "t4"),
        ("NVIDIA RTX A6000", "rtxa6000"),
        ("Quadro RTX 6000", "rtx6000"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx6000ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtxpro6000"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "rtx4090laptop"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "rtx4070tisuper"),
        ("NVIDIA TITAN V", "titanv"),
        ("Orin (nvgpu)", "orin"),
        ("AMD Instinct MI300X", "mi300x"),
        ("AMD Instinct MI250X / MI250", "mi250x"),
        ("AMD Radeon RX 7900 XTX", "rx7900xtx"),
        ("Intel(R) Data Center GPU Max 1550", "max1550"),
        ("Intel(R) Arc(TM) B580 Graphics", "b580"),
        ("Apple M2 Max", "m2max"),
        ("MTT S4000", "s4000"),
        ("MLU590-M9", "mlu590"),
        ("AMD Radeon Graphics", ""),
        ("Intel(R) Graphics [0xe20b]", ""),
        ("", ""),
    ],
)
def test_a_driver_s_name_becomes_a_flavour(name, short):
    assert short_name(name) == short
