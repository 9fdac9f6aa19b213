"""A metric of one's own: the gap between the means of both classes."""


def compute(scores, labels):
    return scores[labels == 1].mean() - scores[labels == 0].mean()
