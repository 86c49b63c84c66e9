"""Where the axes of the network's input are in each value, and which nodes mix the entries along one of them.

An axis of a value is written as factors in row-major order, each of which belongs to an axis of the input or to none
(channels that a layer makes). Transpositions, reshapes, products and sums move factors; a layer over an axis ends it.
So it is known of attention, a recurrence or a softmax whether it runs along the samples or along the positions, however
often they were swapped and merged on the way. A value whose axes cannot be followed has none: nothing is said of it.
"""
