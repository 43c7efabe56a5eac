from setuptools import find_packages, setup

NAME = "grids_common"

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
    description="Topic table, QoS names, parameter schema, lifecycle base and pacing.",
    license="Apache-2.0",
)
