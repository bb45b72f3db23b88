"""Data sets: teachers with a known truth, label noise, whitening, and real data."""

from .celeba import celeba as celeba
from .cifar10 import cifar10 as cifar10
from .dataset import Dataset as Dataset
from .mnist import mnist as mnist
from .modular import modular as modular
from .moment_factor import moment_factor as moment_factor
from .noise import add_label_noise as add_label_noise
from .pairs import from_torch as from_torch
from .real import diabetes as diabetes
from .real import digits as digits
from .real import load_npz as load_npz
from .real import openml as openml
from .svhn import svhn as svhn
from .teachers import linear_teacher as linear_teacher
from .teachers import multi_index as multi_index
from .teachers import orthogonal_support as orthogonal_support
from .teachers import single_index as single_index
from .teachers import vanishing_alignment as vanishing_alignment
from .whitening import standardize as standardize
from .whitening import whiten as whiten
