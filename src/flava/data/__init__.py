"""From files to batches.

How a batch is made, each step of it a pure function of the seed and a number, so that a run resumes
with the batches that it would have had, on any number of ranks and workers:

1. ``mixture`` draws the source (pairs, images or texts) of each training step from (seed, step).
2. A source's batches are numbered. ``streaming`` decides by (seed, number) which samples a batch
   has, and gives each rank its slots of it: a ``RawBatch``.
3. ``collate`` decodes, augments and masks each sample, with random numbers drawn from (seed, epoch,
   shard, key), and puts the samples together into a ``Batch``. A sample that cannot be used is
   reported, and one of the raw batch's spares takes its slot.
4. ``workers`` does 2 and 3 in worker processes, and ``loader`` returns the batches in their order.
"""
