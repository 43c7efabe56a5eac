from setuptools import setup

NAME = "grids_sim"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    entry_points={
        "console_scripts": [
            "expert_policy = grids_sim.expert_node:main",
            "twin = grids_sim.twin_node:main",
            "twin_cameras = grids_sim.camera_renderer_node:main",
        ]
    },
    zip_safe=True,
    maintainer="GridS stack maintainers",
    maintainer_email="maintainers@example.org",
    description="Digital twin of the SO-100.",
    license="Apache-2.0",
)
