from setuptools import find_packages, setup

NAME = "so100_driver"

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
            "driver = so100_driver.nodes.driver:main",
            "leader = so100_driver.nodes.leader:main",
        ]
    },
    zip_safe=True,
    maintainer="GridS stack maintainers",
    maintainer_email="maintainers@example.org",
    description="Guarded SO-100 follower driver, leader node, calibration, doctor and bench.",
    license="Apache-2.0",
)
