from setuptools import find_packages, setup

NAME = "grids_perception"

setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/urdf", ["urdf/so100.urdf"]),
    ],
    zip_safe=True,
    maintainer="GridS stack maintainers",
    maintainer_email="maintainers@example.org",
    description="Cameras, sampled-coordinates overlay, robot description and figures.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            f"camera = {NAME}.camera.node:main",
            f"description = {NAME}.description.node:main",
            f"list_cameras = {NAME}.camera.list_cameras:main",
            f"overlay = {NAME}.overlay.node:main",
        ]
    },
)
