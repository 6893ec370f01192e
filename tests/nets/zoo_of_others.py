"""Models of other packages, small and random: name -> (package, () -> (model, example batch))."""

import torch
import torch.nn.functional as F
from torch import nn


def tokens():
    return {"input_ids": torch.randint(0, 40, (2, 7))}


SIZES = {"vocab_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    ends = {"bos_token_id": 0, "eos_token_id": 0}
    sizes = {"vocab_size": 40, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 4}
    return GPT2LMHeadModel(GPT2Config(**sizes, **ends, use_cache=False)), tokens()


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        **SIZES, hidden_size=24, intermediate_size=32, max_position_embeddings=32, num_labels=3
    )
    return BertForSequenceClassification(config), tokens()


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **SIZES, hidden_size=32, num_key_value_heads=2, intermediate_size=40, use_cache=False
    )
    return LlamaForCausalLM(config), tokens()


def vit():
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32,
        image_size=16, patch_size=4, num_labels=3,
    )  # fmt: skip
    return ViTForImageClassification(config), {"pixel_values": torch.randn(2, 3, 16, 16)}


def mixtral():
    """Experts one after the other: the fused kernel wants rows of whole 16 bytes."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        **SIZES, hidden_size=32, num_key_value_heads=2, intermediate_size=40, num_local_experts=4,
        num_experts_per_tok=2, use_cache=False, experts_implementation="eager",
    )  # fmt: skip
    return MixtralForCausalLM(config), tokens()


class Graph(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x, edges):
        return self.second(F.elu(self.first(x, edges)), edges)


def nodes():
    return torch.randn(20, 10), torch.randint(0, 20, (2, 50))


def gcn():
    from torch_geometric.nn import GCNConv

    return Graph(GCNConv(10, 16), GCNConv(16, 4)), nodes()


def gat():
    from torch_geometric.nn import GATConv

    return Graph(GATConv(10, 8, heads=4), GATConv(32, 4)), nodes()


OTHERS = {
    "gpt2": ("transformers", gpt2),
    "bert": ("transformers", bert),
    "llama": ("transformers", llama),
    "vit": ("transformers", vit),
    "mixtral": ("transformers", mixtral),
    "gcn": ("torch_geometric", gcn),
    "gat": ("torch_geometric", gat),
}
