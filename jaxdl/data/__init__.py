"""Real data sets, small enough to lie on the device, checked when they are built."""

from jaxdl.data import augment as augment
from jaxdl.data.dataset import Dataset as Dataset
from jaxdl.data.dataset import check_labels as check_labels
from jaxdl.data.dataset import validation_split as validation_split
from jaxdl.data.digits import digits8 as digits8
from jaxdl.data.digits import mnist5k as mnist5k
from jaxdl.data.fashion import DownloadError as DownloadError
from jaxdl.data.fashion import fashion_mnist as fashion_mnist
from jaxdl.data.idx import read_idx as read_idx
from jaxdl.data.mnist1d import mnist1d as mnist1d
