// Plain C interface of the native kernels: pointers, sizes and strides only.
#pragma once
