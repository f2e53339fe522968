"""Builders of whole models: functions that return a Layer."""

from jaxdl.models.any_size import fixed_size_classifier as fixed_size_classifier
from jaxdl.models.any_size import global_average_classifier as global_average_classifier
from jaxdl.models.any_size import variable_size_classifier as variable_size_classifier
from jaxdl.models.autoencoder import sparse_autoencoder as sparse_autoencoder
from jaxdl.models.autoencoder import sparse_autoencoder_loss as sparse_autoencoder_loss
from jaxdl.models.autoencoder import split_code as split_code
from jaxdl.models.convnet import conv_stages as conv_stages
from jaxdl.models.convnet import convnet as convnet
from jaxdl.models.convnet import lenet as lenet
from jaxdl.models.convnet import traffic_sign_net as traffic_sign_net
from jaxdl.models.inception import GOOGLENET_3A as GOOGLENET_3A
from jaxdl.models.inception import GOOGLENET_3B as GOOGLENET_3B
from jaxdl.models.inception import inception_module as inception_module
from jaxdl.models.inception import small_googlenet as small_googlenet
from jaxdl.models.mlp import ACTIVATIONS as ACTIVATIONS
from jaxdl.models.mlp import mlp as mlp
from jaxdl.models.resnet import residual_block as residual_block
from jaxdl.models.resnet import resnet as resnet
from jaxdl.models.transformer import skips as skips
from jaxdl.models.transformer import (
    transformer_block as transformer_block,
)
from jaxdl.models.transformer import (
    transformer_stack as transformer_stack,
)
