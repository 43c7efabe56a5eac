from setuptools import find_packages, setup

NAME = "grids_recorder"

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
            "recorder = grids_recorder.node.recorder:main",
        ]
    },
    zip_safe=True,
    maintainer="GridS stack maintainers",
    maintainer_email="maintainers@example.org",
    description="Episodes as rosbags and as LeRobot datasets.",
    license="Apache-2.0",
)
