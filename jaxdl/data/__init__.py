"""Real data sets, small enough to lie on the device, checked when they are built."""

from jaxdl.data.dataset import Dataset as Dataset
from jaxdl.data.dataset import check_labels as check_labels
from jaxdl.data.digits import digits8 as digits8
from jaxdl.data.digits import mnist5k as mnist5k
