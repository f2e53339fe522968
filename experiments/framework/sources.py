"""What the five source texts ask for: the rows that experiments make claims about.

A row's id is a letter for the text and a number. `run.claim("A5", …)` reports on a row;
`python -m experiments claims` shows all of them, those without any result included.
"""

from __future__ import annotations

GROUPS: dict[str, str] = {
    "A": "An introduction to deep learning in one article",
    "B": "Notes on chapter 9 of “Deep Learning”: convolutional networks",
    "C": "Introduction to deep learning, lecture notes 6.1",
    "D": "Deep learning in a nutshell: core concepts",
}

ROWS: dict[str, str] = {
    "A1": "Every part of a training system can be chosen by its user",
    "A2": "The 2-2-2 sigmoid network is worked through with each intermediate value in sight",
    "A3": "Its forward pass gives the printed activations and error",
    "A4": "Its backward pass gives the printed deltas, gradients and updated weights",
    "A5": "Its printed training curve comes from a wrong backward pass; the right one differs",
    "A6": "The article's network object, written as pure functions with a readable inspection",
    "A7": "A 2-5-1 sigmoid network learns XOR from one random example a step",
    "A8": "What comes next: transfer learning, object detection, GANs, reinforcement learning",
    "B1": "Convolution in 1, 2 and 3 dimensions by its definition; it smooths a noisy sensor",
    "B2": "Convolution and cross-correlation agree with the signal-processing routines",
    "B3": "Sparse connections cost less, and receptive fields grow with depth and stride",
    "B4": "Sharing weights shrinks their number; a shared gradient sums over its places",
    "B5": "Convolution commutes with translation, not with scaling or rotation",
    "B6": "Edges by neighbour difference beat the same map as a dense matrix in cost and memory",
    "B7": "Convolution is a dense layer with an infinitely strong prior, which can be wrong",
    "B8": "Locally connected layers suit data whose statistics depend on the place",
    "B9": "A convolutional block has three stages: convolution, detector, pooling",
    "B10": "Pooling by maximum, mean, L2 norm and distance-weighted mean",
    "B11": "A shift by one pixel changes all inputs but only about half of the pooled maxima",
    "B12": "Pooling over channels learns an invariance, such as to rotation",
    "B13": "Pooling with a stride keeps the smaller region at the end",
    "B14": "Pooling regions that grow with the input let one classifier take any size",
    "B15": "Pooling regions may come with the data, or be learned once",
    "B16": "Features learned from patches are convolved over large images, pooled and classified",
    "C1": "A unit is a logistic regression; a network is units and connections",
    "C2": "A feed-forward network is matrix products over a whole batch on an accelerator",
    "C3": "A dense softmax network reads 16×16 handwritten digits; depth and width are free",
    "C4": "Evolution finds a network's structure, a whole population trained at once",
    "C5": "A convolutional network reads the same digits",
    "C6": "Summed cross-entropy falls by gradient descent, with gradients from backpropagation",
    "D1": "Logistic and multinomial regression, alone and on top of learned features",
    "D2": "Features made by hand against features learned, on one task",
    "D3": "Learned features form a hierarchy that pictures can show",
    "D4": "A thousand linear layers collapse into one; a non-linear stack does not",
    "D5": "LSTM cells and maxout units",
    "D6": "Gradients vanish in deep sigmoid stacks; ReLU and good initialisation prevent it",
    "D7": "LSTM remembers over hundreds of steps, a plain recurrent network over about ten",
    "D8": "An encoder and a decoder turn one sequence into another",
    "D9": "Convolution through the Fourier transform equals the direct form, and can be faster",
    "D10": "The maximum of a cross-correlation marks where a pattern lies",
    "D11": "The size of pooling regions trades memory against accuracy",
    "D12": "The traffic-sign network: two convolution and pooling stages, dense layer, softmax",
    "D13": "An inception module, and what its 1×1 reductions save",
}


def group_of(row_id: str) -> str:
    """Title of the source text that the row belongs to."""
    return GROUPS[row_id[0]]


def check_row(row_id: str) -> str:
    """`row_id` itself if there is such a row; else a ValueError that says which there are."""
    if row_id in ROWS:
        return row_id
    meant = str(row_id).strip().upper()
    hint = f"did you mean {meant!r}? " if meant in ROWS else ""
    lasts = {row[0]: row for row in ROWS}  # the last row of each text, as ROWS is in order
    ranges = ", ".join(f"{group}1…{last}" for group, last in lasts.items())
    raise ValueError(
        f"claim: row id must be one of {ranges}, got {row_id!r}; "
        f"{hint}the rows are in experiments/framework/sources.py"
    )
