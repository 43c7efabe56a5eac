from setuptools import find_packages, setup

NAME = "grids_sim"

setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    entry_points={
        "console_scripts": [
            "expert_policy = grids_sim.nodes.expert:main",
            "twin = grids_sim.nodes.twin:main",
            "twin_cameras = grids_sim.nodes.camera_renderer:main",
        ]
    },
    zip_safe=True,
    maintainer="GridS stack maintainers",
    maintainer_email="maintainers@example.org",
    description="Digital twin of the SO-100.",
    license="Apache-2.0",
)
