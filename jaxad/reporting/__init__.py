"""Reports: what a run, a comparison of runs or a study leaves for people, as a page.

A page is one file of HTML that needs nothing else: no network, no server, and without
JavaScript it has all that can be read. It is made of the files of finished runs alone.
"""
