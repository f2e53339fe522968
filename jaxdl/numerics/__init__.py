"""What several families of layers need: windows, correlations, dtypes, checks, pytrees."""

from jaxdl.numerics.checks import check_range as check_range
from jaxdl.numerics.dtypes import row_numbers as row_numbers
from jaxdl.numerics.dtypes import wide as wide
from jaxdl.numerics.sharding import explicit_sharding as explicit_sharding
