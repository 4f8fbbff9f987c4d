"""From keywords to a licensed picture (paper, Appendix A.1, step 1). Off unless the operator names a source."""
