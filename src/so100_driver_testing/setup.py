from setuptools import find_packages, setup

NAME = "so100_driver_testing"

setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    zip_safe=True,
    maintainer="GridS stack maintainers",
    maintainer_email="maintainers@example.org",
    description="What the driver is tested with: the rig, the fault campaign, its promises and the bench.",
    license="Apache-2.0",
)
