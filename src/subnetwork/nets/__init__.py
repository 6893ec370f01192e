"""Networks as named tensors: the layout of a model, its cut, its local work, its merge (torch)."""

from subnetwork.nets.architecture import MLP, Architecture, initial_state, runnable
from subnetwork.nets.buffers import Buffers
from subnetwork.nets.calibrate import accuracy, recalibrate
from subnetwork.nets.data import Batches, DataSet, load
from subnetwork.nets.decompose import decompose, plan_from
from subnetwork.nets.layout import Layout
from subnetwork.nets.local import Gradients, LocalSteps, Supervised
from subnetwork.nets.merges import Outer, StepOnGradients, holders, holders_in_place
from subnetwork.nets.modules import Modules
from subnetwork.nets.optimizers import SGD, Adam, AdamW
from subnetwork.nets.partition import NetPartition, NetSketch
from subnetwork.nets.plan import Plan
from subnetwork.nets.scale import Scale
from subnetwork.nets.schedules import WarmupCosine
from subnetwork.nets.scores import changes
from subnetwork.nets.state import ABSENT, ModelState, Submodel

__all__ = [
    "ABSENT",
    "MLP",
    "SGD",
    "Adam",
    "AdamW",
    "Architecture",
    "Batches",
    "Buffers",
    "DataSet",
    "Gradients",
    "Layout",
    "LocalSteps",
    "ModelState",
    "Modules",
    "NetPartition",
    "NetSketch",
    "Outer",
    "Plan",
    "Scale",
    "StepOnGradients",
    "Submodel",
    "Supervised",
    "WarmupCosine",
    "accuracy",
    "changes",
    "decompose",
    "holders",
    "holders_in_place",
    "initial_state",
    "load",
    "plan_from",
    "recalibrate",
    "runnable",
]
