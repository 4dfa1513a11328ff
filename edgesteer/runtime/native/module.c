/* Makes the tap a Python extension, so that the package's own build compiles it and a wheel
 * carries it. Python only locates and loads it; the functions are called through ctypes. */
#include <Python.h>

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "The compiled tap; see native/tap.h.", 0, NULL, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModule_Create(&definition); }
