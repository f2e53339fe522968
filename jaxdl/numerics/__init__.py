"""What several families of layers need: windows, correlations, dtypes, checks, pytrees."""

from jaxdl.numerics.dtypes import check_range as check_range
from jaxdl.numerics.dtypes import explicit_sharding as explicit_sharding
from jaxdl.numerics.dtypes import row_numbers as row_numbers
from jaxdl.numerics.dtypes import wide as wide
